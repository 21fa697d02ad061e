"""The PyTorch side: the network, augmentation, the training loop and its checkpoints."""
