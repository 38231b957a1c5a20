"""MLflow follows the ledger."""
