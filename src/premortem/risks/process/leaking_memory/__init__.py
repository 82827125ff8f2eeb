"""A command takes memory until its limit kills it."""
