"""Galleries: embeddings of known identities that can be changed, searched and rolled back."""
