package pipeline

// Waiting is how many callers wait for a group.
func Waiting(c *Client) int {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return len(c.waiting)
}
