"""Training: losses, data, the LightningModule and its callbacks."""
