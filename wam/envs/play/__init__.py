"""Scripted experts and the play that is made of them."""
