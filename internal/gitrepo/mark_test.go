package gitrepo_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// markOf is the mark of a job in the tests of this package.
func markOf(branch, id string) gitrepo.Mark {
	return gitrepo.Mark{Installation: "i1", Job: id, Branch: branch, Keys: keysOf("a")}
}

// keysOf is a ring of the keys of these names, the first one first.
func keysOf(names string) *secret.Keyring {
	parts := make([]string, 0, len(names))
	for _, name := range names {
		parts = append(parts, fmt.Sprintf("%c:%s", name, base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{byte(name)}, secret.KeySize))))
	}
	ring, err := secret.ParseKeyring(strings.Join(parts, ","))
	if err != nil {
		panic(err) // the names are written in this file
	}
	return ring
}

// marked is a repository with a commit of the job j1 on main, and one of others beside it.
type marked struct {
	*bench
	mark                gitrepo.Mark // of the job
	parent, own, theirs string
	message             string // of the job's commit
}

func startMarked(t *testing.T) *marked {
	m := &marked{bench: start(t, gitrepo.Config{}), mark: markOf("main", "j1")}
	m.create(map[string]string{"a": "1"})
	m.parent = m.cli("rev-parse", "main")
	m.own = m.build("main", m.mark).Hash
	m.cli("branch", "theirs", m.parent)
	if err := m.git.Commit(t.Context(), "acme/web", "theirs", "Others", map[string]string{"b": "2"}); err != nil {
		t.Fatal(err)
	}
	m.theirs, m.message = m.cli("rev-parse", "theirs"), strings.TrimSpace(m.cli("log", "-1", "--format=%B", m.own))
	return m
}

// build makes the job's change on a branch and pushes it.
func (m *marked) build(branch string, mark gitrepo.Mark) *gitrepo.Commit {
	m.t.Helper()
	snapshot, err := m.client.Fetch(m.t.Context(), remote, gitrepo.Want{Ref: "refs/heads/" + branch, Depth: 1})
	if err != nil {
		m.t.Fatal(err)
	}
	said := spec("")
	said.Mark = mark
	commit, err := snapshot.Build(m.t.Context(), []edit.FileChange{put("x", "y")}, said)
	if err = errors.Join(err, snapshot.Close()); err == nil {
		err = m.client.Push(m.t.Context(), remote, gitrepo.PushSpec{Branch: branch, Old: snapshot.Commit(), Commit: commit})
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return commit
}

// commit makes a commit as somebody else would, with git.
func (m *marked) commit(tree, message string, parents ...string) string {
	m.t.Helper()
	args := []string{"-c", "user.name=M", "-c", "user.email=m@example.com", "commit-tree", tree, "-m", message}
	for _, parent := range parents {
		args = append(args, "-p", parent)
	}
	return m.cli(args...)
}

// isOwn reports whether commit is recognized as the job's, at the branch's tip and in its history; the two must agree.
func (m *marked) isOwn(commit string, mark gitrepo.Mark) bool {
	m.t.Helper()
	made := m.isOwnTip(commit, mark)
	m.cli("update-ref", "refs/heads/"+mark.Branch, m.commit(commit+"^{tree}", "On top", commit))
	for _, since := range []string{"", m.parent} {
		found, is, err := m.client.FindJob(m.t.Context(), remote, mark, since)
		if err != nil || is != made || is && found != commit {
			m.t.Errorf("since %q: found %q %t, as the tip it is %t (%v)", since, found, is, made, err)
		}
	}
	return made
}

func (m *marked) isOwnTip(commit string, mark gitrepo.Mark) bool {
	m.t.Helper()
	m.cli("update-ref", "refs/heads/"+mark.Branch, commit)
	snapshot, err := m.client.Fetch(m.t.Context(), remote, gitrepo.Want{Ref: "refs/heads/" + mark.Branch, Depth: 1})
	if err != nil {
		m.t.Fatal(err)
	}
	_, made := snapshot.MadeBy(mark)
	if err := snapshot.Close(); err != nil {
		m.t.Fatal(err)
	}
	return made
}

// TestACopiedTrailerProvesNothing: a proof holds for one change of one job, and a copy of it elsewhere proves nothing.
func TestACopiedTrailerProvesNothing(t *testing.T) {
	t.Parallel()
	m := startMarked(t)
	tree, proof := m.own+"^{tree}", m.message[strings.LastIndex(m.message, " ")+1:]
	if !strings.HasSuffix(m.message, "\n\nForge-Job: j1\nForge-Job-Proof: "+proof) || len(proof) != 43 {
		t.Fatalf("the message is %q", m.message)
	}
	with := func(from, to string) string { return strings.Replace(m.message, from, to, 1) }
	twoTrees, err := gittest.Git(t.Context(), m.git.Path("acme/web"), strings.NewReader(fmt.Sprintf(
		"tree %s\nparent %s\nauthor M <m@example.com> 1 +0000\ncommitter M <m@example.com> 1 +0000\ntree %s\nparent %s\n\n%s\n",
		m.cli("rev-parse", m.theirs+"^{tree}"), m.parent, m.cli("rev-parse", tree), m.parent, m.message)), "hash-object", "-t", "commit", "-w", "--stdin", "--literally")
	if err != nil {
		t.Fatal(err)
	}
	main := func(m gitrepo.Mark) gitrepo.Mark { return m }
	for name, tc := range map[string]struct {
		commit string
		mark   func(gitrepo.Mark) gitrepo.Mark
	}{
		"the trailer alone":                {m.commit(m.theirs+"^{tree}", "Other\n\nForge-Job: j1", m.parent), main},
		"the trailer alone, on its change": {m.commit(tree, "Other\n\nForge-Job: j1", m.parent), main},
		"another parent":                   {m.commit(tree, m.message, m.theirs), main},
		"no parent":                        {m.commit(tree, m.message), main},
		"a second parent":                  {m.commit(tree, m.message, m.parent, m.theirs), main},
		"another tree":                     {m.commit(m.theirs+"^{tree}", m.message, m.parent), main},
		"the parent's tree":                {m.commit(m.parent+"^{tree}", m.message, m.parent), main},
		"a second tree in the header":      {twoTrees, main},
		"another branch":                   {m.own, func(m gitrepo.Mark) gitrepo.Mark { m.Branch = "topic"; return m }},
		"another installation":             {m.own, func(m gitrepo.Mark) gitrepo.Mark { m.Installation = "i2"; return m }},
		"another job":                      {m.own, func(m gitrepo.Mark) gitrepo.Mark { m.Job = "j2"; return m }},
		"the job's proof with another id": {
			m.commit(tree, with("Forge-Job: j1", "Forge-Job: j2"), m.parent), func(m gitrepo.Mark) gitrepo.Mark { m.Job = "j2"; return m },
		},
		"a part of the id":          {m.own, func(m gitrepo.Mark) gitrepo.Mark { m.Job = "j"; return m }},
		"a truncated proof":         {m.commit(tree, with(proof, proof[:42]), m.parent), main},
		"half a proof":              {m.commit(tree, with(proof, proof[:22]), m.parent), main},
		"an empty proof":            {m.commit(tree, with(proof, ""), m.parent), main},
		"a padded proof":            {m.commit(tree, with(proof, proof+"="), m.parent), main},
		"a proof with one bit less": {m.commit(tree, with(proof, flipped(proof)), m.parent), main},
		"a key that is not ours":    {m.own, func(m gitrepo.Mark) gitrepo.Mark { m.Keys = keysOf("b"); return m }},
		"no keys":                   {m.own, func(m gitrepo.Mark) gitrepo.Mark { m.Keys = nil; return m }},
		"another is intended":       {m.commit(tree, "Other\n\nForge-Job: j1", m.parent), func(mark gitrepo.Mark) gitrepo.Mark { mark.Intended = m.theirs; return mark }},
	} {
		if m.isOwn(tc.commit, tc.mark(m.mark)) {
			t.Errorf("%s: it is taken for the job's commit", name)
		}
	}
	if !m.isOwn(m.own, m.mark) {
		t.Error("the job's own commit is not known again")
	}
}

// TestRewrittenCommitsProveNothing: git copies the message along with the change, and the copy makes another change, on another tip, or on
// another branch.
func TestRewrittenCommitsProveNothing(t *testing.T) {
	t.Parallel()
	m := startMarked(t)
	folder := t.TempDir()
	m.cli("worktree", "add", "-q", "--detach", folder, m.parent)
	on := func(start string, commands ...[]string) string {
		t.Helper()
		var output string
		for _, args := range append([][]string{{"reset", "-q", "--hard", start}}, append(commands, []string{"rev-parse", "HEAD"})...) {
			var err error
			if output, err = gittest.Git(t.Context(), folder, nil, append([]string{"-c", "user.name=M", "-c", "user.email=m@example.com"}, args...)...); err != nil {
				t.Fatal(err)
			}
		}
		return output
	}
	amended := []string{"commit", "-q", "--amend", "--no-edit"}
	for name, commit := range map[string]string{
		"cherry-picked": on(m.theirs, []string{"cherry-pick", m.own}),
		"rebased":       on(m.own, []string{"rebase", "-q", m.theirs}),
		"squashed with another commit": on(m.own, []string{"rm", "-q", "a"}, []string{"commit", "-q", "-m", "More"}, []string{"reset", "-q", "--soft", m.parent},
			[]string{"commit", "-q", "-m", m.message}),
		"squashed by merge": on(m.theirs, []string{"merge", "-q", "--squash", m.own}, []string{"commit", "-q", "-m", m.message}),
		"amended":           on(m.own, []string{"rm", "-q", "a"}, amended),
	} {
		if m.isOwn(commit, m.mark) {
			t.Errorf("%s: it is taken for the job's commit", name)
		}
	}
	for name, commit := range map[string]string{
		"merged":             on(m.theirs, []string{"merge", "-q", "--no-ff", "-m", m.message, m.own}),
		"reverted":           on(m.own, []string{"revert", "--no-edit", m.own}, []string{"commit", "-q", "--amend", "-m", m.message}),
		"made a second time": on(m.own, []string{"commit", "-q", "--allow-empty", "-m", m.message}),
	} {
		if m.isOwnTip(commit, m.mark) {
			t.Errorf("%s: the commit above the job's is taken for the job's", name)
		}
	}
	// The same change on the same tip, by someone else: the branch holds what the job was asked for.
	if !m.isOwn(on(m.own, append(amended, "--reset-author")), m.mark) {
		t.Error("the job's change under another author is not recognized")
	}
}

// flipped is text with another character in its middle.
func flipped(text string) string {
	changed := []byte(text)
	changed[len(text)/2] ^= 1
	return string(changed)
}

// TestProofsAndKeys: with the same first key, the same job on the same tip makes the same commit. With another first key it makes another
// commit, and any key of the ring verifies either. The intended commit needs neither key nor proof.
func TestProofsAndKeys(t *testing.T) {
	t.Parallel()
	m := startMarked(t)
	made := map[string]string{}
	for _, names := range []string{"a", "ab", "b", "ba", ""} {
		mark := m.mark
		mark.Keys = nil
		if names != "" {
			mark.Keys = keysOf(names)
		}
		m.cli("update-ref", "refs/heads/main", m.parent)
		made[names] = m.build("main", mark).Hash
	}
	if made["a"] != m.own || made["ab"] != m.own || made["b"] != made["ba"] || made["b"] == m.own || made[""] == m.own || made[""] == made["b"] {
		t.Errorf("the commits are %v", made)
	}
	for _, tc := range []struct {
		commit, keys string
		intended     bool
		want         bool
	}{
		{made["a"], "ba", false, true},
		{made["b"], "ba", false, true},
		{made["b"], "ab", false, true},
		{made["a"], "b", false, false},
		{made["a"], "b", true, true},
		{made[""], "a", false, false},
		{made[""], "a", true, true},
		{made["a"], "", true, true},
	} {
		mark := m.mark
		mark.Keys = nil
		if tc.keys != "" {
			mark.Keys = keysOf(tc.keys)
		}
		if tc.intended {
			mark.Intended = tc.commit
		}
		if m.isOwn(tc.commit, mark) != tc.want {
			t.Errorf("%+v: it is not", tc)
		}
	}
}
