"""The library: models, classifiers and a training step for programs of one's own.

classifier = vitjax.load("runs/quickstart")
[guesses] = classifier.predict(["digit.png"], top=3)

model = vitjax.create_model("S/16", num_classes=10)
training = vitjax.make_training(model, first_batch, total_steps=1000, lr=1e-3)
state = training.init()
for batch in batches:
    state, metrics = training.step(state, batch)
"""

from vitjax.library.classifier import Classifier, Prediction, load
from vitjax.library.create import create_model
from vitjax.library.training import Training, make_training

__all__ = [
    "Classifier",
    "Prediction",
    "Training",
    "create_model",
    "load",
    "make_training",
]
