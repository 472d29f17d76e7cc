"""Landing, manifest, ledger, atomic files, catalog."""
