"""Other people's processes: started, watched and ended in good order. It knows nothing of risks."""
