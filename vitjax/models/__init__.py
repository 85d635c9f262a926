"""The models, by the name that `config.model_name` gives."""

from vitjax.models import vit

MODELS = {"vit": vit.Model}
