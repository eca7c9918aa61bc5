"""What amsam is measured and shown with: the demo, data sets x shots x seeds x methods."""
