"""The shelf: detectors, control Protocols and rungs that risks are assembled from."""
