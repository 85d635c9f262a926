"""The texts of the keys of the model, and of what its parameters start from."""

_DTYPES = "It is float16, bfloat16, float32 or float64."

MODEL = {
    "model_name": (
        "The model: vit, or a model of another author. Those are torchvision_vit, "
        "small_cnn, tower, nanovit, simplest_vit and simple_vit; docs/systems.md "
        "describes them."
    ),
    "model": (
        "The model's arguments. They are the keyword arguments of the function that "
        "model_name names."
    ),
    "model.variant": (
        'A name for the sizes, and the patch size: "S/16", "B/32". The names are mu, Ti, '
        "S, M, B, L, So400m, H, g, g-opt, G, G-opt and e. Sizes that are also given one by "
        "one override the variant's (arXiv:2106.04560)."
    ),
    "model.patch_size": "The height and width of a patch, in pixels.",
    "model.width": "The length of a token's vector.",
    "model.depth": "The number of encoder blocks.",
    "model.mlp_dim": "The width of the hidden layer of each MLP. None is 4 * width.",
    "model.num_heads": "The number of attention heads. It must divide width.",
    "model.posemb": (
        "The position embeddings: learn, sincos2d or none. sincos2d is a constant, so it "
        "is not in checkpoints."
    ),
    "model.rep_size": (
        "The width of a tanh layer before the head; True is width, False is none. "
        "big_vision's flagship has it, and calls that an MLP head."
    ),
    "model.dropout": (
        "The share of values that are dropped in training, at least 0 and below 1. It "
        "applies to the embedded tokens, inside the MLPs and after both branches, never "
        "to the attention's probabilities."
    ),
    "model.pool_type": (
        "How the tokens become one vector: gap, map, tok, 0 or none. gap is their mean, "
        "map attention with one learned query, tok a class token, 0 the first patch; none "
        "keeps all tokens."
    ),
    "model.head_zeroinit": (
        "Start the head's weights at zero. The first loss is then ln(num_classes). False "
        "draws them as LeCun does."
    ),
    "model.scan": (
        "Run the blocks as one scan. It compiles faster, and stacks the blocks' "
        "parameters in one array each, so a rate for each block is not possible."
    ),
    "model.remat_policy": (
        "The values that the backward pass does not compute again. The policy is none, "
        "nothing_saveable, everything_saveable, dots_saveable or "
        "dots_with_no_batch_dims_saveable. nothing_saveable takes the least memory. None "
        'is "none", or "nothing_saveable" with scan. It may change when a run resumes.'
    ),
    "model.dtype_mm": (
        "The type of the matrix products of stem, blocks and MAP head. " + _DTYPES + " "
        "bfloat16 is the usual mixed precision; float16 needs loss_scale. Parameters, "
        "LayerNorms and head stay in float32."
    ),
    "model.residual_dtype": (
        "The type of the stream between the blocks, with position embeddings. "
        + _DTYPES
        + " None is dtype_mm, but at least float32."
    ),
    "model.softmax_dtype": (
        "The type of the softmax in the attention. "
        + _DTYPES
        + " None is dtype_mm, but "
        "at least float32."
    ),
    "model.gelu": (
        "The activation of the MLPs: tanh, exact or quick. tanh is the approximation that "
        "flax and big_vision use, exact is PyTorch's default, quick is that of the first "
        "CLIP."
    ),
    "model.attn_impl": (
        "How the attention is computed: auto, flax, xla or cudnn. flax is two einsums. "
        "cudnn needs an NVIDIA GPU, dtype_mm of bfloat16 or float16, and an even number "
        "of tokens. auto is cudnn where it can be had, else flax; the run says which."
    ),
    "model.mlp_impl": (
        "How the way back through the MLP's GELU is computed: xla or pallas. pallas is one "
        "kernel with the product before it on an NVIDIA GPU, and the same numbers by XLA "
        "elsewhere. It needs dtype_mm of bfloat16 or float16, and no dropout."
    ),
    "model.return_attn": (
        "Return the attention's probabilities among the model's intermediates. It is for "
        "tools, and of no use in training."
    ),
    "model.registers": (
        "The number of register tokens, learned and never pooled (arXiv:2309.16588)."
    ),
    "model.drop_path": (
        "The probability with which an example skips a branch of the last block. It rises "
        "linearly from 0 in the first block, as in timm."
    ),
    "model.layer_scale": (
        "The initial factor of LayerScale after both branches (arXiv:2103.17239). None "
        "has no LayerScale."
    ),
    "model.pre_norm": (
        "Normalise all tokens before the blocks, as CLIP does. The embedding then has no "
        "bias."
    ),
    "model.norm_after_pool": (
        "Put the last LayerNorm after the pooling, as some models of timm do."
    ),
    "model.norm_eps": (
        "The number that the LayerNorms add to the variance. big_vision has 1e-6, "
        "Hugging Face 1e-12, CLIP 1e-5."
    ),
    "model.distilled": (
        "Add a second head on the first register, DeiT's distillation token. The logits "
        "are the mean of both heads'. It needs pool_type=tok and registers."
    ),
    "model.floor_patches": (
        "Leave out the pixels at the right and bottom that fill no patch. Without it such "
        "an image size is an error. So400m/14 was trained so at 384 pixels."
    ),
    "init_head_bias": (
        "The initial bias of the head. -6.9 starts sigmoid_xent at a probability of "
        "1/1000 for each class, as big_vision does."
    ),
    "model_init": (
        "The run or file that the parameters start from; the run starts at step 0. It is "
        "a workdir, WORKDIR/best, WORKDIR/checkpoints/STEP, or a file of big_vision, "
        "timm, torchvision, Hugging Face or mup-vit; also in a bucket. See "
        "docs/weights.md."
    ),
    "model_init_grid": (
        "The patch grid (height, width) of model_init, if it is not square. Position "
        "embeddings are resampled from it."
    ),
    "model_init_channels": (
        "The rule for a patch embedding of another number of channels: sum. None refuses "
        "it. sum is timm's rule: one channel gets the sum of the weights, more "
        "channels repeat them scaled, and an image with equal channels keeps its tokens."
    ),
    "dont_load": (
        "Patterns of parameters that stay fresh and are not read from model_init. Each "
        "must match the whole name: ('head/.*',)."
    ),
}
