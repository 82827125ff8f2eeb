"""Nouns and pure rules of the risk plane, standard library only, in flow order."""
