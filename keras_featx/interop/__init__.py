"""Parts of other libraries under the names and contracts of this one."""
