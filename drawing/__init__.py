"""Pictures for people: masks on images, sheets of answers, curves."""
