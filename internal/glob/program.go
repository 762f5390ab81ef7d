package glob

import (
	"fmt"
	"math/bits"
)

// A glob is run as Thompson's automaton (Regular expression search algorithm, CACM 11:6, 1968): all states that it can be in move together,
// character by character, so that nothing is ever tried again. Alternatives are not written out either.

// program is a compiled glob.
type program struct {
	code  []instruction
	start int
	items int // in all character classes
}

// instruction is a state. Those that consume a character go on at next.
type instruction struct {
	op    op
	char  rune
	class *class
	next  int
	other int  // of a split: the second branch; of a globstar: the star that it is inside of a part
	ends  bool // the path may end here
}

type op uint8

const (
	opMatch op = iota
	opRune
	opSlash
	opAny
	opClass
	opStar
	opParts // **/ : whole parts, each with its slash; next is behind the slash
	opRest  // ** at the end
	opSplit
)

// stepsPerState bounds what one state costs at one character: it is looked at once, leads to at most two others and may lie on the way to two.
// Each instruction stands for two states, at the beginning of a part and inside.
const stepsPerState = 10

// size is what the bound on the steps is a multiple of.
func (p *program) size() int { return len(p.code) + p.items }

func compile(nodes []node) (program, error) {
	var p program
	end := p.add(instruction{op: opMatch, ends: true})
	p.start = p.sequence(nodes, end)
	if len(p.code) > maxProgram {
		return program{}, fmt.Errorf("it is too complex: its ** and braces stand for too much; give several shorter ones")
	}
	for i := range p.code {
		each := &p.code[i]
		each.ends = each.op == opMatch || each.op == opRest || each.op == opSlash && p.mayStop(each.next)
	}
	return p, nil
}

// mayStop reports whether a path may end before the slash that leads to an instruction: a/** matches a.
func (p *program) mayStop(at int) bool {
	switch each := p.code[at]; each.op {
	case opRest:
		return true
	case opParts:
		return p.mayStop(each.next)
	case opSplit:
		return p.mayStop(each.next) || p.mayStop(each.other)
	}
	return false
}

func (p *program) add(made instruction) int {
	p.code = append(p.code, made)
	return len(p.code) - 1
}

// sequence compiles from the end, so that each instruction knows what follows it.
func (p *program) sequence(nodes []node, next int) int {
	for i := len(nodes) - 1; i >= 0 && len(p.code) <= maxProgram; i-- {
		switch each := nodes[i]; each.kind {
		case kindSlash:
			next = p.add(instruction{op: opSlash, next: next})
		case kindAny:
			next = p.add(instruction{op: opAny, next: next})
		case kindClass:
			p.items += len(each.class.ranges)
			next = p.add(instruction{op: opClass, class: each.class, next: next})
		case kindStar:
			next = p.add(instruction{op: opStar, next: next})
		case kindDouble:
			next = p.double(next)
		case kindBraces:
			after := next
			next = p.sequence(each.branches[len(each.branches)-1], after)
			for j := len(each.branches) - 2; j >= 0; j-- {
				next = p.add(instruction{op: opSplit, next: p.sequence(each.branches[j], after), other: next})
			}
		default:
			next = p.add(instruction{op: opRune, char: each.char, next: next})
		}
	}
	return next
}

// double compiles **, which is more than * where a slash or the end follows. Before braces that is for each alternative to say.
func (p *program) double(next int) int {
	if len(p.code) > maxProgram {
		return next
	}
	switch follows := p.code[next]; follows.op {
	case opSplit:
		first := p.double(follows.next)
		return p.add(instruction{op: opSplit, next: first, other: p.double(follows.other)})
	case opSlash:
		star := p.add(instruction{op: opStar, next: next})
		return p.add(instruction{op: opParts, next: follows.next, other: star})
	case opMatch:
		star := p.add(instruction{op: opStar, next: next})
		return p.add(instruction{op: opRest, next: next, other: star})
	}
	return p.add(instruction{op: opStar, next: next})
}

// words are what a set of states needs at most.
const words = 2 * maxProgram / 64

// states are where a program can be, two bits for each instruction: at the beginning of a part, and inside.
type states [words]uint64

// runner runs a program over one path.
type runner struct {
	code  []instruction
	steps int
}

func (p *program) run(path string) (matched bool, steps int) {
	var sets [2]states
	used := (2*len(p.code) + 63) / 64
	now, next := &sets[0], &sets[1]
	r := runner{code: p.code}
	r.enter(now, p.start, 1)
	for path != "" {
		char, size := decode(path)
		path = path[size:]
		alive := false
		for word := range used {
			for set := now[word]; set != 0; set &= set - 1 {
				alive = true
				r.steps++
				r.consume(next, (word*64+bits.TrailingZeros64(set))/2, char)
			}
		}
		if !alive {
			return false, r.steps
		}
		clear(now[:used])
		now, next = next, now
	}
	for word := range used {
		for set := now[word]; set != 0; set &= set - 1 {
			r.steps++
			if p.code[(word*64+bits.TrailingZeros64(set))/2].ends {
				return true, r.steps
			}
		}
	}
	return false, r.steps
}

// consume puts into set where a character leads from an instruction.
func (r *runner) consume(set *states, at int, char rune) {
	each := &r.code[at]
	switch each.op {
	case opRune:
		if char == each.char {
			r.enter(set, each.next, 0)
		}
	case opSlash:
		if char == '/' {
			r.enter(set, each.next, 1)
		}
	case opAny:
		if char != '/' {
			r.enter(set, each.next, 0)
		}
	case opClass:
		r.steps += len(each.class.ranges)
		if char != '/' && each.class.has(char) {
			r.enter(set, each.next, 0)
		}
	case opStar:
		if char != '/' {
			r.enter(set, at, 0)
		}
	case opParts:
		if char == '/' {
			r.enter(set, at, 1)
			return
		}
		r.stay(set, at)
	case opRest:
		r.stay(set, at)
	}
}

// stay puts an instruction into set without what can be reached from it: a ** inside of a part goes on at the next part only.
func (r *runner) stay(set *states, at int) {
	bit := 2*at + 1
	set[bit/64] |= 1 << (bit % 64)
}

// enter puts an instruction into set, and those that can be reached from it without a character. begins is 1 at the beginning of a part.
func (r *runner) enter(set *states, at, begins int) {
	r.steps++
	each := &r.code[at]
	if begins == 0 && (each.op == opParts || each.op == opRest) {
		at, each = each.other, &r.code[each.other]
	}
	bit := 2*at + begins
	if set[bit/64]&(1<<(bit%64)) != 0 {
		return
	}
	set[bit/64] |= 1 << (bit % 64)
	switch each.op {
	case opSplit:
		r.enter(set, each.next, begins)
		r.enter(set, each.other, begins)
	case opStar:
		r.enter(set, each.next, 0)
	case opParts:
		r.enter(set, each.next, 1)
	}
}
