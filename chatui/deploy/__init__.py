"""Deploys chatui to where it runs for others."""
