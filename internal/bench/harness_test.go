package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tiny costs no time.
func tiny() Shape {
	return Shape{Name: "tiny", Files: 20, Commits: 5, Words: 30, Edits: 2, Rewritten: 3}
}

// Every way does its work, is checked and measured.
func TestEveryWay(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir(), t.TempDir(), tiny())
	s.prime()
	rows := append(s.compare((size{}).pushes(), true, 1, 2), s.compare((size{}).archives(), false, 1, 2)...)
	for _, row := range rows {
		for _, sample := range row.Samples {
			if sample.Wall <= 0 || sample.CPU <= 0 || sample.RSS < 1<<20 || sample.Requests < 2 || sample.Down < 100 {
				t.Errorf("%s: %+v", row.Name, sample)
			}
		}
	}
	if left, err := filepath.Glob(filepath.Join(s.root, "work-*")); err != nil || len(left) > 0 {
		t.Errorf("%v, and %q is left", err, left)
	}
}

func TestManyThroughTheQueue(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long; make test-all runs it")
	}
	f := startFleet(t, t.TempDir(), t.TempDir(), tiny(), 3, atOnce)
	rows, batched := queueRows(), batchRows()
	f.round(rows)
	f.batchRound(batched)
	if memory := f.batchMemory(); len(memory.Rows) < 3 {
		t.Errorf("of Redis's memory only %q", memory.Rows)
	}
	rows = append(rows, batched...)
	for _, row := range rows {
		for _, sample := range row.Samples {
			if sample.Wall <= 0 || sample.CPU <= 0 || sample.RSS < 1<<20 || sample.Requests < 6 {
				t.Errorf("%s: %+v", row.Name, sample)
			}
		}
	}
}

// A figure of wrong work is worth nothing: the checks are able to fail.
func TestWrongWorkIsNoticed(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir(), t.TempDir(), tiny())
	for name, script := range map[string]string{
		"nothing":      "true",
		"another file": strings.Replace(scriptPush, "git commit", "echo x >"+tiny().Other()+"\ngit commit", 1),
		"two commits":  strings.Replace(scriptPush, "git push", "git commit --quiet --allow-empty --message x\ngit push", 1),
		"another word": strings.Replace(scriptPush, "$WORD", "other", 1),
	} {
		work := Work{Way: name, Base: s.server.base, Slug: tiny().Name, Folder: t.TempDir(), File: tiny().Edited(), Word: "word"}
		s.reset(s.tip)
		if _, err := byScript(script)(t.Context(), work); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := s.check(work, s.tip, true); err == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
	s.reset(s.tip)
	if err := s.sound(); err != nil {
		t.Errorf("a sound repository: %v", err)
	}
	folder := filepath.Join(s.path, "objects", "12")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, strings.Repeat("3", 38)), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.sound(); err == nil {
		t.Error("a damaged object is not noticed")
	}
}

func TestWrongArchiveIsNoticed(t *testing.T) {
	t.Parallel()
	s := serve(t, t.TempDir(), t.TempDir(), tiny())
	work := Work{Base: s.server.base, Slug: tiny().Name, Folder: t.TempDir()}
	if _, err := byScript(scriptArchive)(t.Context(), work); err != nil {
		t.Fatal(err)
	}
	if err := s.check(work, s.tip, true); err != nil {
		t.Errorf("the tip's archive: %v", err)
	}
	if err := s.check(work, s.moved, true); err == nil {
		t.Error("an archive with another content of one file is not noticed")
	}
	one := strings.Replace(scriptArchive, "HEAD", "HEAD "+tiny().Edited(), 1)
	work.Folder = t.TempDir()
	if _, err := byScript(one)(t.Context(), work); err != nil {
		t.Fatal(err)
	}
	if err := s.check(work, s.tip, true); err == nil {
		t.Error("an archive of one file is not noticed")
	}
}

func TestWaysAreChosen(t *testing.T) {
	t.Parallel()
	all := (size{}).pushes()
	for parts, want := range map[string][]string{
		"moved by": {all[0].name, rowMoved}, "mirror;go-git": {all[0].name, all[1].name, goGit}, "none": {all[0].name},
	} {
		var names []string
		for _, w := range chosen(all, parts) {
			names = append(names, w.name)
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("%q: want (-), got (+):\n%s", parts, diff)
		}
	}
	if len(chosen(all, "")) != len(all) {
		t.Error("not all where none are named")
	}
}

func pushResult(size, place string, walls map[string]time.Duration) Result {
	r := Result{Kind: "Push", Size: size, Place: place, Day: "2026-01-02", Rows: []Row{{Name: "git", Samples: []Sample{{Wall: 1000}}}}}
	for _, name := range []string{rowFilter, rowFirstFilter, rowCold} {
		if wall, measured := walls[name]; measured {
			r.Rows = append(r.Rows, Row{Name: name, Memory: 32e6, Samples: []Sample{{Wall: wall, RSS: 20e6}, {Wall: wall, RSS: 32e6 + 1}, {Wall: wall}}})
		}
	}
	return r
}

func TestBoundsAreJudged(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "results.json")
	kept, err := openResults(file, "this machine")
	if err != nil {
		t.Fatal(err)
	}
	many := queueRows()
	for i, wall := range []time.Duration{1000, 651, 420, 10} {
		many[i].Samples = []Sample{{Wall: wall}}
	}
	kept.put(Result{Kind: queueTitle, Rows: many})
	kept.put(pushResult("medium", onDisk, map[string]time.Duration{rowFilter: 61}))
	kept.put(pushResult("small", onDisk, map[string]time.Duration{rowFilter: 999}))
	kept.keep(t, pushResult("small", onDisk, map[string]time.Duration{rowFilter: 400, rowFirstFilter: 401, rowCold: 1}))
	again, err := openResults(file, "this machine")
	if err != nil || len(again.All) != 3 || again.All[0].Size != "small" || again.All[2].Size != "" {
		t.Fatalf("kept %+v, %v", again, err)
	}
	got := map[string]string{}
	for _, row := range again.bounds().Rows {
		if name := row[0]; got[name] == "" || name != "the same, a worker's very first job" {
			got[name] = strings.Join(row[1:], "|")
		}
	}
	for name, want := range map[string]string{
		"push, cold, filter offered":                       "0.400 of 0.400, met|0.061 of 0.060, NOT MET|not measured",
		"the same, a worker's very first job":              "0.401 of 0.400, NOT MET|not measured|not measured",
		"push, cold, no filter, in memory":                 "not measured|not measured|not measured",
		"peak RSS of a push, any way, any place":           "33 MB of 32 MB, NOT MET|33 MB of 32 MB, NOT MET|not measured",
		"200 repositories: Gitsmith, cold, no filter":      "0.651 of 0.650, NOT MET||",
		"200 repositories: Gitsmith, cold, filter offered": "0.420 of 0.420, met||",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	titles := fmt.Sprint(slices.Collect(func(yield func(string) bool) {
		for _, table := range again.tables() {
			if !yield(table.Title) {
				return
			}
		}
	}))
	if want := "[Bounds Push, small, on disk Push, medium, on disk " + queueTitle + "]"; titles != want {
		t.Errorf("tables %s, want %s", titles, want)
	}
	if other, err := openResults(file, "another machine"); err != nil || len(other.All) != 0 {
		t.Errorf("another machine's: %v, %v", other, err)
	}
}
