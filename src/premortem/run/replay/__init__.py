"""Replay: the kernel of the live path over a recorded log. Would we have caught it, and when?"""
