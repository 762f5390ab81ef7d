package gitrepo_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/gitrepo"
)

// TestDamagedCache cuts off, alters and deletes files of the tip cache at random between pushes: no result differs from what git
// says that it must be, and reading heals what was damaged.
func TestDamagedCache(t *testing.T) {
	t.Parallel()
	for name, filter := range map[string]string{"without a filter": "false", "with a filter": "true"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSparse(t, gitrepo.Config{})
			s.files(60)
			s.cli("config", "uploadpack.allowFilter", filter)
			random := rand.New(rand.NewPCG(3, 141))
			last, ways := "two", map[gitrepo.Way]int{}
			for i := range 60 {
				next := fmt.Sprintf("line-%d-", i)
				way, _ := s.edit("main", last, next) // compares by the git CLI
				ways[way]++
				last = next
				if i%3 == 0 {
					if err := s.git.Commit(t.Context(), "acme/web", "main", "Other", map[string]string{"dir3/sub/other": next}); err != nil {
						t.Fatal(err)
					}
				}
				damage(t, random, s.cache)
			}
			for _, way := range []gitrepo.Way{gitrepo.WayCached, gitrepo.WayUpdated} {
				if ways[way] == 0 {
					t.Errorf("never %s: %v", way, ways)
				}
			}
			if ways[gitrepo.WayShallow]+ways[gitrepo.WayPartial] == 0 {
				t.Errorf("nothing was damaged so that it had to be read anew: %v", ways)
			}
			if content := s.cli("show", "main:edited/deep/down/file.txt"); content != "one\n"+last+"\nthree" {
				t.Errorf("the file is %q", content)
			}
		})
	}
}

// damage does one thing, or nothing, to each file of the cache.
func damage(t *testing.T, random *rand.Rand, cache string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cache, "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing is cached: %v", err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		switch random.IntN(6) {
		case 0:
			content = content[:random.IntN(len(content)+1)]
		case 1, 2:
			for range 1 + random.IntN(4) {
				content[random.IntN(len(content))] ^= byte(1 + random.IntN(255))
			}
		case 3: // an object's content alone: the list says that it is there
			content[len(content)-1-random.IntN(min(len(content), 2000))] ^= 0x20
		case 4:
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if strings.HasSuffix(file, ".tip") {
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}
