"""From a recipe to a trained model: `run.train(load_recipe("recipes/tiny-extend.yaml"))`.

Recipes and model cards need no further library; `run` and everything that it uses need the extra `train`.
"""

from .recipe import Recipe
from .recipe_file import load_recipe

__all__ = ["Recipe", "load_recipe"]
