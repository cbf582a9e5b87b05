"""What the API says about itself: discovery, OpenAPI, schemas."""
