package glob

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// kind is what a part of a pattern stands for.
type kind uint8

const (
	kindRune kind = iota
	kindSlash
	kindAny
	kindClass
	kindStar
	kindDouble // ** in one piece; whether it is a part of its own is seen when it is compiled
	kindBraces
)

// node is a part of a pattern.
type node struct {
	kind     kind
	char     rune
	class    *class
	branches [][]node // of braces
}

// class is [a-z].
type class struct {
	negated bool
	ranges  []runeRange
}

type runeRange struct{ low, high rune }

func (c *class) has(char rune) bool {
	for _, each := range c.ranges {
		if each.low <= char && char <= each.high {
			return !c.negated
		}
	}
	return c.negated
}

// Parse reads a pattern. The error is public text that says what is wrong and what to do, and does not repeat the pattern.
func Parse(pattern string) (*Glob, error) {
	if pattern == "" {
		return nil, fmt.Errorf("it is no glob: it is empty; write it like docs/** or **/*.go")
	}
	if !strings.ContainsAny(pattern, `*?[{}\`) {
		return &Glob{pattern: pattern, literal: true, prefix: pattern, base: pattern}, nil
	}
	if len(pattern) > MaxBytes {
		return nil, fmt.Errorf("it is too long: a glob with wildcards has at most %d bytes; give several shorter ones", MaxBytes)
	}
	p := parser{rest: pattern}
	nodes, err := p.sequence(0)
	if err != nil {
		return nil, err
	}
	if err := p.bounds(writtenOut(nodes)); err != nil {
		return nil, err
	}
	g := &Glob{pattern: pattern}
	g.prefix, g.literal = leading(nodes)
	if g.literal {
		g.base = g.prefix
		return g, nil
	}
	if slash := strings.LastIndexByte(g.prefix, '/'); slash > 0 {
		g.base = g.prefix[:slash]
	}
	g.prefix = strings.TrimSuffix(g.prefix, "/") // a/** matches a
	g.suffix = trailing(nodes)
	g.program, err = compile(nodes)
	return g, err
}

// leading is the text before the first wildcard; all is true where there is none.
func leading(nodes []node) (text string, all bool) {
	var found []byte
	for _, each := range nodes {
		if each.kind > kindSlash {
			return string(found), false
		}
		found = appendRune(found, each.char)
	}
	return string(found), true
}

// trailing is the text behind the last wildcard, without the slash at its beginning, which belongs to **/ where that matches nothing.
func trailing(nodes []node) string {
	at := len(nodes)
	for at > 0 && nodes[at-1].kind <= kindSlash {
		at--
	}
	text, _ := leading(nodes[at:])
	return strings.TrimPrefix(text, "/")
}

// parser reads a pattern and counts what is bounded.
type parser struct {
	rest      string
	parts     int
	stars     int
	globstars int
	deepest   int
}

// writtenOut is how many globs without braces a sequence stands for, no more than one above the bound.
func writtenOut(nodes []node) int {
	product := 1
	for _, each := range nodes {
		if each.kind != kindBraces {
			continue
		}
		sum := 0
		for _, branch := range each.branches {
			sum = min(sum+writtenOut(branch), maxAlternatives+1)
		}
		product = min(product*sum, maxAlternatives+1)
	}
	return product
}

// bounds reports what there is too much of.
func (p *parser) bounds(alternatives int) error {
	for _, each := range []struct {
		has, most int
		what      string
	}{
		{p.parts + 1, maxParts, "parts between slashes"},
		{p.globstars, maxGlobstars, "**"},
		{p.stars, maxStars, "wildcards * and **"},
		{p.deepest, maxDepth, "braces in each other"},
		{alternatives, maxAlternatives, "globs that its braces stand for"},
	} {
		if each.has > each.most {
			return fmt.Errorf("it is too complex: more than %d %s; give several shorter ones", each.most, each.what)
		}
	}
	return nil
}

// sequence reads until the end, or in braces until a comma or the closing brace, which it leaves.
func (p *parser) sequence(depth int) ([]node, error) {
	var nodes []node
	for p.rest != "" {
		if depth > 0 && (p.rest[0] == ',' || p.rest[0] == '}') {
			return nodes, nil
		}
		next, err := p.node(depth)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, next)
	}
	if depth > 0 {
		return nil, fmt.Errorf(`it is no glob: a { has no }; write \{ for the character itself`)
	}
	return nodes, nil
}

func (p *parser) node(depth int) (node, error) {
	switch p.rest[0] {
	case '*':
		length := len(p.rest) - len(strings.TrimLeft(p.rest, "*"))
		p.rest = p.rest[length:]
		p.stars++
		if length == 2 {
			p.globstars++
			return node{kind: kindDouble}, nil
		}
		return node{kind: kindStar}, nil
	case '?':
		p.rest = p.rest[1:]
		return node{kind: kindAny}, nil
	case '[':
		return p.class()
	case '{':
		return p.braces(depth + 1)
	case '}':
		return node{}, fmt.Errorf(`it is no glob: a } has no {; write \} for the character itself`)
	}
	char, err := p.char()
	if err != nil {
		return node{}, err
	}
	if char == '/' {
		p.parts++
		return node{kind: kindSlash, char: char}, nil
	}
	return node{char: char}, nil
}

// char reads one character, which a backslash may quote.
func (p *parser) char() (rune, error) {
	if p.rest[0] == '\\' {
		if p.rest = p.rest[1:]; p.rest == "" {
			return 0, fmt.Errorf(`it is no glob: it ends in a \; write \\ for the character itself`)
		}
	}
	char, size := decode(p.rest)
	p.rest = p.rest[size:]
	return char, nil
}

func (p *parser) braces(depth int) (node, error) {
	if p.deepest = max(p.deepest, depth); depth > maxDepth {
		return node{}, p.bounds(1)
	}
	made := node{kind: kindBraces}
	for {
		p.rest = p.rest[1:] // { or ,
		branch, err := p.sequence(depth)
		if err != nil {
			return node{}, err
		}
		made.branches = append(made.branches, branch)
		if p.rest[0] == '}' {
			break
		}
	}
	p.rest = p.rest[1:]
	return made, nil
}

// class reads [a-z]. A - is itself as the first or last character; everything may be quoted.
func (p *parser) class() (node, error) {
	open := fmt.Errorf(`it is no glob: a [ has no ], or nothing in between; write \[ for the character itself`)
	p.rest = p.rest[1:]
	made := &class{}
	if p.rest != "" && (p.rest[0] == '!' || p.rest[0] == '^') {
		made.negated, p.rest = true, p.rest[1:]
	}
	for p.rest != "" && p.rest[0] != ']' {
		low, err := p.char()
		if err != nil {
			return node{}, open
		}
		high := low
		if len(p.rest) > 1 && p.rest[0] == '-' && p.rest[1] != ']' {
			p.rest = p.rest[1:]
			if high, err = p.char(); err != nil {
				return node{}, open
			}
		}
		if high < low {
			return node{}, fmt.Errorf("it is no glob: a range in [ ] runs backwards; write the smaller character first")
		}
		made.ranges = append(made.ranges, runeRange{low, high})
	}
	if p.rest == "" || len(made.ranges) == 0 {
		return node{}, open
	}
	p.rest = p.rest[1:]
	return node{kind: kindClass, class: made}, nil
}

// badByte is added to a byte that is no UTF-8, which git's paths may hold: such a byte is a character of its own.
const badByte = utf8.MaxRune + 1

// decode is utf8.DecodeRuneInString, but keeps bytes that are no UTF-8 apart.
func decode(text string) (rune, int) {
	char, size := utf8.DecodeRuneInString(text)
	if char == utf8.RuneError && size == 1 {
		return badByte + rune(text[0]), 1
	}
	return char, size
}

func appendRune(text []byte, char rune) []byte {
	if char >= badByte {
		return append(text, byte(char-badByte)) // what decode added
	}
	return utf8.AppendRune(text, char)
}
