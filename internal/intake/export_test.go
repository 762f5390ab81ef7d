package intake

// Met reports whether the Intake knows which Redis answers.
func Met(i *Intake) bool {
	i.recent.mutex.Lock()
	defer i.recent.mutex.Unlock()
	return i.recent.begun
}
