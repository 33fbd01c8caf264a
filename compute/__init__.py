"""Floor 3: the device, batches of images, and inference. Training and evaluation both stand on it."""
