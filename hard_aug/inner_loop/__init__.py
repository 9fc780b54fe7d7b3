"""The inner maximisation: teacher and student, the score of an image, and updates of the policy."""
