"""Several processes that train one model: agreeing with each other, and bundles of which each writes its share."""
