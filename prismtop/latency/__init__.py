"""What each batch should have cost: features, predictor, detector, service level objectives."""
