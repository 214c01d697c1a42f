"""Installing, mending and removing the client's program on this computer: `pcmsvc install | repair | remove`.

    /opt/pcm/versions/VERSION/  one tree each, whole and never changed: interpreter, libraries, code
    /opt/pcm/current            a link to the version in use; switching it is the whole change from one version to another
    /opt/pcm/package/           the files of a .deb or .rpm, from which `install` makes the version (hard links)
    /usr/bin/pcmsvc, pcmapp     links into `current`

`layout` knows these places and switches, `release` knows what a version consists of, `measures` what has to hold here, `install`
and `remove` do it, `commands` speaks with the administrator.
"""
