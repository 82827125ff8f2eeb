"""The world outside: each adapter is one module, imported only by who uses it, and uses premortem as anyone would."""
