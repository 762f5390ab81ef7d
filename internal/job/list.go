package job

// ListOptions choose a page of an installation's jobs, newest first.
type ListOptions struct {
	State     State  // empty: every state
	Requester string // an account id; empty: whoever asked
	Limit     int    // 1 to 100; zero is 20
	Cursor    string // List.Next of the page before; empty for the first
}

// List is one page.
type List struct {
	Jobs []Status
	Next string // cursor of the next page; empty on the last
}
