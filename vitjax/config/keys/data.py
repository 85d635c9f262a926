"""The texts of the keys of `input`, its data and its preprocessing."""

DATA = {
    "num_classes": (
        "The number of classes, which is the number of the model's outputs. onehot(...) in "
        "input.pp or device_pp needs the same number. Data with more classes is refused."
    ),
    "input": "The training data: its source, batch size and preprocessing.",
    "input.data": (
        "The source of the examples. It is the keyword arguments of one source, and "
        "kind names the source. See docs/data.md."
    ),
    "input.data.kind": (
        "The kind of source: tfds, folder, huggingface, npz, idx, cifar or arrays. tfds: a data set that TensorFlow Datasets has "
        "prepared; folder: images in data_dir/SPLIT/CLASS/; huggingface: a saved data "
        "set, parquet files or the hub; npz: arrays in one file; idx: MNIST's files; "
        "cifar: CIFAR's Python version; arrays: a data set of scikit-learn."
    ),
    "input.data.origin": (
        "Where to get the data set. The error about missing files ends with this sentence."
    ),
    "input.data.split": (
        'The split, or a part of one: "train", "train[:99%]", "train[:9]+test". A part of '
        "a folder or of arrays is a part of one fixed random order."
    ),
    "input.data.data_dir": (
        "The folder of the data. For tfds it is the folder of all prepared data sets, by "
        "default TFDS_DATA_DIR or ~/tensorflow_datasets; for huggingface a folder of "
        "save_to_disk or of parquet files. It may change when a run resumes."
    ),
    "input.data.cache_dir": (
        "A local folder to which shards in a bucket are copied while they are read. As much "
        "is copied as fits. It may change when a run resumes."
    ),
    "input.data[tfds].name": (
        'The name of the data set in tfds. "imagenet2012:5.0.0" chooses a version, and '
        '"imagenet_v2/matched-frequency" a configuration.'
    ),
    "input.data[huggingface].name": (
        "The name of a data set on the hub, in place of data_dir."
    ),
    "input.data[arrays].name": (
        'The name of the data set: "digits", scikit-learn\'s 1,797 handwritten digits. '
        'They are grey, 8 x 8 pixels; "test" is a fixed random fifth of them.'
    ),
    "input.data.config": "The configuration of the hub's data set.",
    "input.data.image": "The column of the images.",
    "input.data.label": (
        "The column of the labels. It holds a ClassLabel, whole numbers, or names, which "
        "are numbered in sorted order."
    ),
    "input.data.as_seen": (
        "Read images as a viewer shows them. EXIF turns them, and transparent pixels "
        "become white. False reads them as stored, as TensorFlow, torchvision and timm "
        "do. It may change when a run resumes."
    ),
    "input.data.class_names": (
        "The names of the classes, in the order of the labels. The files have none."
    ),
    "input.data.num_classes": (
        "The number of classes, if there are no names. Labels are checked against it."
    ),
    "input.data.path": (
        'The .npz file. "{split}" in path, images or labels is replaced by the split.'
    ),
    "input.data.images": "The key of the images in the file, uint8 [n, h, w(, c)].",
    "input.data.labels": "The key of the labels in the file, integers [n] or [n, 1].",
    "input.batch_size": (
        "The number of examples of a step, on all devices together. It must be a multiple "
        "of the number of devices times accum_freq. The learning rate does not follow it."
    ),
    "input.pp": (
        "The preprocessing of one example on the host, a string of ops. Ops are separated "
        "by |. It must end in keep(...) with the features that go to the devices. The ops are big_vision's; "
        "input_pipeline/ops/__init__.py lists them, and `vitjax show` draws them."
    ),
    "input.shuffle_buffer_size": (
        "Read in order and shuffle in a buffer of so many examples, as big_vision does. "
        "None shuffles globally. A run with a buffer does not resume to the bit. It suits "
        "network disks, where random access is slow."
    ),
    "input.sampling": (
        "How examples are drawn: None or balanced. None has each once in an epoch; "
        "balanced has every class equally often, and an epoch stays as long. It needs "
        "labels, and goes with no shuffle buffer."
    ),
    "input.cache_raw": (
        "Keep all undecoded examples in memory. It has an effect only with "
        "shuffle_buffer_size, and is refused where they would take more than 80 % of the "
        "free memory."
    ),
    "input.skip_errors": (
        "Replace an example that cannot be read by the next good one. The metric "
        "`skipped` counts them. False stops the run with an error that names the example."
    ),
    "input.num_parallel_calls": (
        "The number of examples that are preprocessed at a time. None is twice the CPU "
        "cores. It does not change the batches, and may change when a run resumes."
    ),
    "input.reads_in_flight": "Examples that are read from a bucket at a time.",
    "input.prefetch": (
        "The number of batches that are made ahead on the host. It may change when a run "
        "resumes."
    ),
    "device_pp": (
        "The last part of the preprocessing, on whole batches in the training step. It "
        "is a string of ops such as value_range(-1, 1) and onehot(10, ...). The host then "
        "sends uint8 images and integer labels, a quarter of the bytes. It may begin with "
        "randaug(2, 10), if input.pp ends with "
        "randaug_plan(2)|keep('image', 'label', 'randaug_plan'); see docs/performance.md."
    ),
    "prefetch_to_device": (
        "The number of batches that are copied to the devices ahead. Each of them takes "
        "device memory. It may change when a run resumes."
    ),
}
