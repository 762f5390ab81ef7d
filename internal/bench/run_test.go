package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What `make bench-git` can be told, beside -bench, which chooses places, sizes and the queue.
const (
	sizesVariable  = "GITSMITH_BENCH_SIZES"  // comma between several; all by default
	rowsVariable   = "GITSMITH_BENCH_ROWS"   // parts of rows' names, semicolon between several; the figures are kept nowhere then
	roundsVariable = "GITSMITH_BENCH_ROUNDS" // minRounds by default
)

// size is a shape with what each way of Gitsmith may take of the command line's time there, and a push of memory, in MB.
type size struct {
	shape                                           Shape
	filter, cold, warm, moved, archive, memoryLimit float64
}

func sizes() []size {
	return []size{
		{Small(), 0.40, 0.60, 0.30, 0.45, 0.80, 32},
		{Medium(), 0.06, 0.55, 0.03, 0.05, 0.70, 40},
		{Large(), 0.04, 0.45, 0.015, 0.03, 0.60, 64},
	}
}

// inMemory is the size's bounds where the folder is in memory: only those without a filter hold there.
func (s size) inMemory() size {
	return size{shape: s.shape, cold: 0.75, archive: 0.75, memoryLimit: s.memoryLimit}
}

// chosen are the ways whose names hold one of the parts, and the first one, which they are compared with; all for no parts.
func chosen(all []way, parts string) []way {
	if parts == "" {
		return all
	}
	var some []way
	for i, w := range all {
		wanted := slices.ContainsFunc(strings.Split(parts, ";"), func(part string) bool { return strings.Contains(w.name, part) })
		if wanted || i == 0 {
			some = append(some, w)
		}
	}
	return some
}

// compare does a work in all ways, in turns.
func (s *served) compare(ways []way, pushes bool, memory float64, rounds int) []Row {
	rows := make([]Row, len(ways))
	for i, w := range ways {
		rows[i] = Row{Name: w.name, Bound: w.bound}
		if pushes && w.ours() {
			rows[i].Memory = int64(memory * 1e6)
		}
	}
	for round := range rounds {
		for i := range ways {
			at := (i + round) % len(ways) // none always comes first
			s.words++
			word := ""
			if pushes {
				word = fmt.Sprintf("word%d", s.words)
			}
			sample := s.round(ways[at], word, round == rounds-1)
			rows[at].Samples = append(rows[at].Samples, sample)
			fmt.Fprintf(os.Stderr, "%d/%d %-50s %9s wall %9s cpu %6s %3d requests %9s %s\n", round+1, rounds, ways[at].name,
				milliseconds(sample.Wall), milliseconds(sample.CPU), megabytes(sample.RSS), sample.Requests, kilobytes(sample.Down), sample.Read)
		}
	}
	return rows
}

// numberOf is a number that the run was told, or the usual one.
func numberOf(b *testing.B, variable string, usual int) int {
	b.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return usual
	}
	number, err := strconv.Atoi(text)
	if err != nil || number < 1 {
		b.Fatalf("%s: %q is no number from 1", variable, text)
	}
	return number
}

// BenchmarkGit is Gitsmith beside the command line and go-git, once on the disk and once in memory. What it measures takes the
// place of the same from earlier runs, and the report is of all.
func BenchmarkGit(b *testing.B) {
	rounds := numberOf(b, roundsVariable, minRounds)
	kept, err := openResults(filepath.Join(cacheFolder, "results.json"), Machine(b.Context()))
	if err != nil {
		b.Fatal(err)
	}
	for _, place := range places(b) {
		for _, size := range sizes() {
			if wanted := os.Getenv(sizesVariable); wanted != "" && !slices.Contains(strings.Split(wanted, ","), size.shape.Name) {
				continue
			}
			if place.memory {
				size = size.inMemory()
			}
			b.Run(place.name+"/"+size.shape.Name, func(b *testing.B) { kept.keep(b, measure(b, place, size, rounds)...) })
		}
	}
	if os.Getenv(rowsVariable) == "" {
		b.Run("queue", func(b *testing.B) { kept.keep(b, benchmarkQueue(b, rounds)) })
		report(b, "git", kept.Machine, kept.tables())
	}
}

// measure is one size in one place.
func measure(b *testing.B, place place, size size, rounds int) []Result {
	b.Helper()
	root, err := os.MkdirTemp(place.folder, "bench-") //nolint:usetesting // in the place that is measured
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(root) })
	s := serve(b, cacheFolder, root, size.shape)
	s.settled = !place.memory
	s.prime()
	parts, today := os.Getenv(rowsVariable), time.Now().Format(time.DateOnly)
	pushes := Result{Kind: "Push", Size: size.shape.Name, Place: place.name, Day: today, Rows: s.compare(chosen(size.pushes(), parts), true, size.memoryLimit, rounds)}
	pushes.Note = fmt.Sprintf("%d files, %d commits; one word in one file, in the middle of the tree.", size.shape.Files, size.shape.Commits)
	if cold, found := pushes.row(rowCold); found {
		filled := median(cold.Samples, func(s Sample) time.Duration { return s.Filled })
		pushes.Note += fmt.Sprintf(" Cold and without a filter, the tip cache had all trees after %s.", milliseconds(filled))
	}
	return []Result{pushes, {
		Kind: "Archive as tar.gz", Size: size.shape.Name, Place: place.name, Day: today,
		Rows: s.compare(chosen(size.archives(), parts), false, size.memoryLimit, rounds),
	}}
}

type place struct {
	name   string
	folder string
	memory bool
}

// places are where the server's repositories and the clients' work are: on the disk, and in memory where the machine has such a
// folder.
func places(b *testing.B) []place {
	b.Helper()
	folder, err := filepath.Abs(cacheFolder)
	if err == nil {
		err = os.MkdirAll(folder, 0o750)
	}
	if err != nil {
		b.Fatal(err)
	}
	found := []place{{onDisk, folder, false}}
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		found = append(found, place{inMemory, "/dev/shm", true})
	}
	return found
}
