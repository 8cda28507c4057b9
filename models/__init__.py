"""Boltzmann machines and the codecs made of them: tensors in, tensors or bytes out."""
