"""Pictures of how an ingredient behaves by itself, without data, one file each, named as the method."""
