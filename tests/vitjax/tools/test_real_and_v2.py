"""ReaL and ImageNet-V2 by vitjax.tools.evaluate, on sets that tfds' own builders made.

The labels are chosen by timm's logits for each image, so that every accuracy is known
beforehand.
"""

import json
import tarfile

import numpy as np
import pytest
import torch

from input_pipeline import ops
from tests.helpers import ilsvrc
from tests.helpers.runs import ROOT
from vitjax.tools import evaluate
from vitjax.weights.libraries import import_torchvision

pytestmark = pytest.mark.slow

IMAGES = 10
PIXELS = 224


def model():
    """Make timm's ViT for 1,000 classes; random weights tell the images apart."""
    import_torchvision()  # which timm imports
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    made = VisionTransformer(
        img_size=PIXELS, patch_size=32, num_classes=1000, embed_dim=32, depth=1,
        num_heads=2, class_token=False, global_pool="avg", fc_norm=False,
    )  # fmt: skip
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor += 0.2 * torch.randn(tensor.shape)
    return made.eval()


@torch.no_grad()
def logits_of(net, images):
    """Return float64[n, 1000] for encoded images, prepared by the flagship's ops."""
    prepare = ops.get_preprocess_fn("decode|resize_small(256)|central_crop(224)")
    pixels = np.stack([prepare({"image": data})["image"].numpy() for data in images])
    pixels = torch.tensor(pixels.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
    return net(pixels).double().numpy()


def metrics(logits, labels):
    """Return prec@1, prec@5, loss and number of the images that have a label."""
    hits1, hits5, losses = [], [], []
    for row, own in zip(logits, labels, strict=True):
        if not own:
            continue
        order = np.argsort(-row)
        hits1.append(order[0] in own)
        hits5.append(bool(set(order[:5]) & set(own)))
        log_shares = row - row.max() - np.log(np.exp(row - row.max()).sum())
        losses.append(-log_shares[list(own)].sum())  # unnormalised, as big_vision's
    return np.mean(hits1), np.mean(hits5), np.mean(losses), len(losses)


def prepare(root):
    """Write the sets and timm's file; return {evaluator: its metrics}."""
    net = model()
    torch.save(net.state_dict(), root / "timm.pth")
    ilsvrc.write_tars(root / "manual", train_per_class=1, num_classes=1, val=IMAGES)
    with tarfile.open(root / "manual" / "ILSVRC2012_img_val.tar") as tar:
        names = sorted(tar.getnames())
        images = [tar.extractfile(name).read() for name in names]
    logits = logits_of(net, images)
    order = np.argsort(-logits, axis=1)
    # In turns: no label; the first among two; the third and one that is far; two far;
    # the first, the second and the last.
    places = ([], [500, 0], [2, 900], [998, 999], [0, 1, 999])
    real = [[int(order[i, p]) for p in places[i % 5]] for i in range(IMAGES)]
    ilsvrc.prepare_real(root / "tfds", root / "manual", real)
    # One label each, by folder: the first, the fourth, the sixth, the first, the last.
    v2 = [[int(order[i, (0, 3, 5, 0, 999)[i % 5]])] for i in range(IMAGES)]
    examples = [(label, data) for [label], data in zip(v2, images, strict=True)]
    ilsvrc.prepare_v2(root / "tfds", root / "unpacked", examples)
    return {"real": metrics(logits, real), "v2": metrics(logits, v2)}


def test_both_are_evaluated_as_numpy_has_it(tmp_path, capsys):
    expected = prepare(tmp_path)
    assert expected["real"][:2] == (0.5, 0.75)
    assert expected["v2"][:2] == (0.4, 0.6)
    flags = [
        "--ckpt", f"{tmp_path}/timm.pth",
        "--config", f"{ROOT}/configs/vit_s16_i1k.py:gelu=exact,head=linear",
        "--evals", "real", "v2", "--out", f"{tmp_path}/out",
        "--config.batch_size_eval=8",
        f"--config.evals.real.data.data_dir={tmp_path}/tfds",
        f"--config.evals.v2.data.data_dir={tmp_path}/tfds",
    ]  # fmt: skip
    assert evaluate.main(flags) == 0
    table = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "report.json").read_text())["evals"]
    assert list(found) == ["real", "v2"]
    for name, (prec1, prec5, loss, count) in expected.items():
        assert found[name]["prec@1"] == pytest.approx(prec1)
        assert found[name]["prec@5"] == pytest.approx(prec5)
        assert found[name]["loss"] == pytest.approx(loss, rel=1e-4)
        assert found[name]["examples"] == count == {"real": 8, "v2": 10}[name]
        assert f"| {name} | {prec1:.4f} | {prec5:.4f} | " in table
