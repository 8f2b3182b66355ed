"""From a recipe to a trained model: `train(load_recipe("recipes/tiny-extend.yaml"))`."""

from .recipe import Recipe
from .recipe_file import load_recipe
from .run import train

__all__ = ["Recipe", "load_recipe", "train"]
