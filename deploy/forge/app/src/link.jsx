// Link leads to another view of the page. It sets the hash itself: an href alone would be resolved against the host's base.
export function Link({ to, ...more }) {
  const follow = (event) => {
    event.preventDefault();
    window.location.hash = to;
  };
  return <a href={to} onClick={follow} {...more} />;
}
