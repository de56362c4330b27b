"""Recipes: functions that return frozen dataclasses saying how each model of ours is trained."""
