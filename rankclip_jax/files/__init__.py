"""Reading and writing files of a run folder or of a user: atomically, checked, in any encoding."""
