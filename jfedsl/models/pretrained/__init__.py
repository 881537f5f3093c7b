"""Readers of pretrained models: folders of Hugging Face, GGUF files, names of the hub."""
