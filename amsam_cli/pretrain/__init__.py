"""The recipe of the built-in weights: invented anatomies, episodes, objectives, the training run."""
