"""Draw pictures: masks on images, sheets of answers, and curves of a run."""
