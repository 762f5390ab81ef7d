package glob

// Steps is Match, with the steps that it took.
func (g *Glob) Steps(path string) (matched bool, steps int) { return g.match(path) }

// MaxSize is the most that [Glob.Bound] can be a multiple of.
const MaxSize = maxProgram + MaxBytes

// StepsPerState is what Bound counts for each state.
const StepsPerState = stepsPerState
