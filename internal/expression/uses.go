package expression

import (
	"strings"

	"github.com/expr-lang/expr/ast"
)

// Uses reports whether an expression may refer to one of the members, such as "repository.project". Where that is told only when it is
// worked out (repository[x], the whole repository) it is true.
func (t *Templates) Uses(members ...string) bool {
	for _, text := range t.texts {
		for _, each := range text.parts {
			if each.program == nil {
				continue
			}
			node, found := each.program.Node(), paths{}
			ast.Walk(&node, found)
			if found.meet(members) {
				return true
			}
		}
	}
	return false
}

// paths are the names that an expression refers to, each as long as it is told by the text alone.
type paths map[ast.Node]string

// Visit is called for each node once, from the leaves up.
func (p paths) Visit(node *ast.Node) {
	switch node := (*node).(type) {
	case *ast.IdentifierNode:
		p[node] = node.Value
	case *ast.MemberNode:
		property, literal := node.Property.(*ast.StringNode)
		path := p[node.Node]
		if path == "" || !literal {
			return
		}
		delete(p, node.Node)
		p[node] = path + "." + property.Value
	}
}

func (p paths) meet(members []string) bool {
	for _, path := range p {
		if path == "$env" || strings.HasPrefix(path, "$env.") {
			return true
		}
		for _, member := range members {
			if path == member || strings.HasPrefix(path, member+".") || strings.HasPrefix(member, path+".") {
				return true
			}
		}
	}
	return false
}
