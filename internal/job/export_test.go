package job

// RefFlaw is refFlaw, for the comparison with git.
func RefFlaw(name string) string { return refFlaw(name) }
