"""Images in folders of their classes, as a task."""
