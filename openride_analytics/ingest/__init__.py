"""The way in: sources, the pipeline that stores what they bring, and what it refuses."""
