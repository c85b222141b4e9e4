"""Answering, reporting, generating and editing with a trained model."""
