"""The migration runner; it knows nothing of images and works on any folder of migrations."""
