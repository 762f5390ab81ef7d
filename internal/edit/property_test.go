package edit_test

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
)

// somePath is one of few, so that changes meet.
var somePath = rapid.SampledFrom([]string{"a", "b", "a/b", "a/c", "a/b/c", "a/b/d", "b/c", "d", "d/e", "d/e/f", "a.b", "run"})

var someTree = rapid.Custom(func(rt *rapid.T) tree {
	drawn := tree{}
	for _, path := range rapid.SliceOfN(somePath, 0, 8).Draw(rt, "paths") {
		if _, found, _ := drawn.Entry(nil, path); found || below(drawn, path) { //nolint:staticcheck // the tree in memory needs no context
			continue
		}
		drawn[path] = rapid.SampledFrom([]blob{
			{edit.ModeRegular, "one\n"},
			{edit.ModeRegular, "two\none\n"},
			{edit.ModeExecutable, "one\n"},
			{edit.ModeSymlink, "a"},
			{edit.ModeRegular, ""},
			{edit.ModeRegular, "\x00one\n"},
			{edit.ModeSubmodule, commit},
		}).Draw(rt, "blob")
	}
	return drawn
})

func below(t tree, path string) bool {
	for at := range path {
		if path[at] == '/' {
			if _, isFile := t[path[:at]]; isFile {
				return true
			}
		}
	}
	return false
}

var someChange = rapid.Custom(func(rt *rapid.T) edit.Change {
	path, other := somePath.Draw(rt, "path"), somePath.Draw(rt, "other")
	switch rapid.IntRange(0, 7).Draw(rt, "change") {
	case 0, 1:
		return edit.Change{Put: &edit.Put{
			Path: path, Content: rapid.SampledFrom([]string{"one\n", "three\n", "x"}).Draw(rt, "content"),
			Mode: rapid.SampledFrom([]edit.Mode{"", edit.ModeRegular, edit.ModeExecutable, edit.ModeSymlink}).Draw(rt, "mode"),
		}}
	case 2, 3:
		return remove(path)
	case 4, 5:
		return move(path, other)
	case 6:
		return replace(rapid.SampledFrom([]string{"one", "o"}).Draw(rt, "pattern"), rapid.SampledFrom([]string{"two", "o", ""}).Draw(rt, "with"),
			rapid.SampledFrom([]string{"**", "a/**", "*", path}).Draw(rt, "glob"))
	}
	return patch(rapid.SampledFrom([]string{
		"--- a/" + path + "\n+++ b/" + path + "\n@@ -1 +1 @@\n-one\n+two\n",
		"diff --git a/" + path + " b/" + path + "\ndeleted file mode 100644\n--- a/" + path + "\n+++ /dev/null\n@@ -1 +0,0 @@\n-one\n",
		"diff --git a/" + path + " b/" + other + "\nsimilarity index 100%\nrename from " + path + "\nrename to " + other + "\n",
		"diff --git a/" + path + " b/" + path + "\nnew file mode 100755\n--- /dev/null\n+++ b/" + path + "\n@@ -0,0 +1 @@\n+new\n",
	}).Draw(rt, "diff"))
})

// model makes changes the slow way, one whole tree after another, and says whether they can be made. Patches are left out.
func model(before tree, changes []edit.Change) (tree, bool) {
	now := maps.Clone(before)
	isDir := func(path string) bool {
		entry, found, _ := now.Entry(nil, path) //nolint:staticcheck // see above
		return found && entry.Mode == edit.ModeDir
	}
	for _, change := range changes {
		switch {
		case change.Put != nil:
			path, next := change.Put.Path, blob{change.Put.Mode, change.Put.Content}
			old, isFile := now[path]
			if isDir(path) || below(now, path) || old.Mode == edit.ModeSubmodule || next.Mode == "" && old.Mode == edit.ModeSymlink {
				return nil, false
			}
			if next.Mode == "" {
				next.Mode = edit.ModeRegular
				if isFile {
					next.Mode = old.Mode
				}
			}
			now[path] = next
		case change.Delete != nil, change.Move != nil:
			path := ""
			if change.Delete != nil {
				path = change.Delete.Path
			} else {
				path = change.Move.From
				if _, isFile := now[change.Move.To]; isFile || isDir(change.Move.To) || below(now, change.Move.To) {
					return nil, false
				}
			}
			taken := tree{}
			for name, file := range now {
				if name == path || len(name) > len(path) && name[:len(path)+1] == path+"/" {
					taken[name] = file
				}
			}
			if len(taken) == 0 {
				return nil, false
			}
			for name := range taken {
				delete(now, name)
			}
			for name, file := range taken {
				if change.Move != nil {
					now[change.Move.To+name[len(path):]] = file
				}
			}
		}
	}
	return now, true
}

// What Apply makes of put, delete and move is what the model makes of them, errors included.
func TestApplyAgainstModel(t *testing.T) {
	t.Parallel()
	made, refused := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		before := someTree.Draw(rt, "tree")
		changes := slices.DeleteFunc(rapid.SliceOfN(someChange, 1, 6).Draw(rt, "changes"), func(c edit.Change) bool { return c.Patch != nil || c.Replace != nil })
		if edit.Validate(changes, edit.Limits{}) != nil {
			return
		}
		want, ok := model(before, changes)
		got, err := apply(t, before, changes...)
		if ok != (err == nil) || ok && !cmp.Equal(want, got) {
			rt.Fatalf("%v of %v, want %v %v: %v", describe(changes), before, ok, want, err)
		}
		if ok {
			made++
		} else {
			refused++
		}
	})
	t.Logf("%d made, %d refused", made, refused)
}

func describe(changes []edit.Change) string {
	text, err := json.Marshal(changes)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Puts and replaces whose text is gone afterwards change nothing the second time; any change leaves a whole tree.
func TestApplyTwice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		before := someTree.Draw(rt, "tree")
		changes := rapid.SliceOfN(someChange, 1, 6).Draw(rt, "changes")
		after, err := apply(t, before, changes...)
		if err != nil {
			if kind := fault.KindOf(err); kind != fault.Invalid {
				rt.Fatalf("%v: %v", kind, err)
			}
			return
		}
		repeatable := !slices.ContainsFunc(changes, func(c edit.Change) bool {
			return c.Put == nil && (c.Replace == nil || c.Replace.With == "o")
		})
		puts := slices.ContainsFunc(changes, func(c edit.Change) bool { return c.Put != nil })
		replaces := slices.ContainsFunc(changes, func(c edit.Change) bool { return c.Replace != nil })
		if !repeatable || puts && replaces {
			return
		}
		again, err := edit.Apply(t.Context(), after, changes, edit.Limits{})
		if puts && err == nil && len(again) != 0 {
			rt.Fatalf("%s changes %v the second time: %v", describe(changes), after, again)
		}
	})
}

func FuzzApply(f *testing.F) {
	for _, changes := range [][]edit.Change{
		{put("a/b", "1"), remove("README.md"), move("src", "lib"), replace("package", "p", "**")},
		{replaceRegexp(`(?m)^(\w+)`, "${1}", "src/{a,b}.go", "*")},
		{patch(newX), patch(mode("run.sh", "100755", "100644"))},
		{move("link", "vendor/link"), remove("vendor/module"), {Put: &edit.Put{Path: "link", Content: "eA==", Encoding: "base64", Mode: edit.ModeSymlink}}},
	} {
		f.Add([]byte(describe(changes)))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var changes []edit.Change
		if json.Unmarshal(body, &changes) != nil {
			return
		}
		invalid := edit.Validate(changes, edit.Limits{})
		if _, err := apply(t, sample(), changes...); err != nil {
			if kind := fault.KindOf(err); kind != fault.Invalid && kind != fault.TooLarge {
				t.Errorf("%v", err)
			}
		} else if invalid != nil {
			t.Errorf("applied, though %v", invalid)
		}
	})
}
