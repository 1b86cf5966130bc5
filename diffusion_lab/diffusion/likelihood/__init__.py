"""Log-likelihoods of images: the probability-flow ODE and the variational bound."""
