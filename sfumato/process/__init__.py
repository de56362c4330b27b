"""The mathematics of noising: levels, estimates, predictions, schedules, grids. Standard library only."""
