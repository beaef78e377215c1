"""What experts.yaml may say, and the values that it is read into; `composer.config` reads it."""
